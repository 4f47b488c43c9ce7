{# A model lives in the schema that its folder is named after. #}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {{ node.original_file_path.split('/')[0] if node.resource_type == 'model' else target.schema }}
{%- endmacro %}
