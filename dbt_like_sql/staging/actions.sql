select dt, user_id, pin_id, action, ts
from {{ ref('checked_actions') }}
where reason is null
