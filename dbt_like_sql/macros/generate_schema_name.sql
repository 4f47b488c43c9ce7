{# Models live in the schema that their folder is named after, without dbt's prefix. #}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {{ custom_schema_name or target.schema }}
{%- endmacro %}
